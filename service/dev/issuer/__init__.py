"""The development issuer: a small identity provider of `make run`, whose demo users sign in without a password.

    tokens.py   its key, its users, and the tokens that it signs
    server.py   OpenID Connect: metadata, keys, the authorization code flow with PKCE
    page.py     the sign-in page

It listens on 127.0.0.1 only and refuses a live Stripe key: every program of this machine can sign in as anybody.
"""
