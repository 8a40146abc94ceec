"""OpenAI's API over one model.

`schemas` and `replies` say what goes in and out. `preparation` turns a body into requests to the runtime, `engine` runs
them on a thread of its own, `formats` and `streaming` write what comes. `guard` refuses requests before they are read.
"""
