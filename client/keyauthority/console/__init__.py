"""Web pages for people who manage keys. Requires the extra `console`.

A client of the API: it calls `AsyncClient`, holds no database and imports nothing of the server.
Every text that the API returns is escaped by the templates. Begin with `app`, which lists the
pages; `visits` is one request of a person who has signed in, `forms` reads their input.
"""
