"""One module a command: settings and a workspace in, an artifact out."""
