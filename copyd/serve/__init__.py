"""The read side: what the journal says about returns. Reads journals, writes only below a directory of its own.

``ledger`` average cost - ``tables`` the Parquet files and their manifest - ``fills`` from a journal into them -
``statistics`` from them to figures, by DuckDB - ``commands`` the terminal. Nothing here talks to a daemon or a venue, and no
order waits for any of it. DuckDB and pyarrow come with the extra ``serve``; importing this package needs neither.
"""
