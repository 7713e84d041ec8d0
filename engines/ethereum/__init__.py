"""Ether and ERC-20 tokens, on any chain that speaks Ethereum's JSON-RPC."""
