"""Ether and ERC-20 tokens, on any chain that speaks Ethereum's JSON-RPC.

Run it, from a clone of the project, with::

    pip install '.[ethereum]'
    settled run --engine ethereum -o rpc_url=http://127.0.0.1:8545 -o chain_id=31337 -o key_file=KEY
"""

from engines.ethereum.options import EthereumOptions
from settled import ConfigError, Connect


def create_engine(options: EthereumOptions) -> Connect:
    """Pay peers in ether or an ERC-20 token, and credit what they pay."""
    try:
        from engines.ethereum.engine import connect_with
    except ImportError as error:
        if (error.name or "").startswith(("engines", "settled")):
            raise
        raise ConfigError(
            f"{error.name} is missing: install settled with the extra ethereum, such as by "
            f"pip install '.[ethereum]' in a clone of it"
        ) from error
    return connect_with(options)
