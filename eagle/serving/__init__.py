"""An OpenAI-compatible server: HTTP and its bodies around one thread that decodes, several requests in turn."""
