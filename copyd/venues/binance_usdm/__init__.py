"""Binance USD-M futures: feeds in, orders out.

Read in this order: ``contract`` (what the venue promises, as data), ``errors`` (three outcomes), ``codec`` (bytes to
facts), ``signing`` (the readable twin of ``copyd._fast.encode``), then the sockets: ``connection``, ``gateway``,
``feed``, ``accounts``, ``rest``. Nothing here decides anything about money: it reports what the venue said.
"""
