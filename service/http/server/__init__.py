"""The HTTP server: all code that touches uvicorn's private resources."""
