"""The HTTP server: all code that uses uvicorn's private parts."""
