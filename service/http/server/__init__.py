"""Between the socket and the router: uvicorn's private parts (protocol), middleware, limits, bodies."""
