"""The app: a page, OpenAI's API and named endpoints over `runtime`."""

import os

# Before anything imports gradio: it would report its use and look for newer versions over the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
