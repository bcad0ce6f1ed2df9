"""Between the socket and the router: uvicorn's private parts (protocol, transport), middleware, limits, bodies."""
