"""The app: a Gradio page over `runtime`."""

import os

# Before anything imports gradio: it would report its use and look for newer versions over the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
