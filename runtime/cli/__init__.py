"""The command lines of the runtime, and what those of export and app share with it."""
