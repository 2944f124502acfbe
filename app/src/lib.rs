//! ITCH 5.0 decoder, order book and market-data feed handler.
