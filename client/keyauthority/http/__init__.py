"""Keys in HTTP requests, and the responses to rejected ones; independent of any framework.

Shared by `middleware` and `gateway`. It must not decide about a key: a verdict comes in, a status
and headers go out. Begin with `credentials`, which reads the key from the headers, then
`rejection`, the table of denials; `client_address` and `responses` are small.
"""
