"""Taking over other Happy servers: where rows come from, what becomes of them, how they get into place.

`sources`, `sqlite` and `postgres` read another server's tables; `tables` and `columns` say what each
becomes here; `load` fills a new database file with them and `checks` compares the two; `place` puts
the result into the data folder. `lines` is an account on its way between two servers of this kind.
"""
