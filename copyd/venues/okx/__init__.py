"""OKX v5: USDT-margined linear perpetuals, and spot."""
