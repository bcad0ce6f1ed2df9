"""Between the socket and the router: uvicorn's private parts (protocol.py, transport.py), middleware, limits, bodies."""
