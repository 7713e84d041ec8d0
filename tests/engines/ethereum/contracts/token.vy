# pragma version 0.4.3
# An ERC-20 token that can be told to misbehave. Made anew: `vyper -f bytecode token.vy > token.hex`.

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256

balanceOf: public(HashMap[address, uint256])
decimals: public(uint8)
mode: public(uint256)

REVERT: constant(uint256) = 1  # every transfer reverts
REFUSE: constant(uint256) = 2  # it moves nothing and returns false
SILENT: constant(uint256) = 3  # it works and returns nothing, as before EIP-20
FEE: constant(uint256) = 4     # one in a hundred goes to nobody
HALVES: constant(uint256) = 5  # one transfer, two logs
LIE: constant(uint256) = 6     # it returns true and does nothing


@deploy
def __init__(decimals: uint8):
    self.decimals = decimals


@external
def set_mode(mode: uint256):
    self.mode = mode


@external
def mint(receiver: address, units: uint256):
    self.balanceOf[receiver] += units
    log Transfer(sender=empty(address), receiver=receiver, value=units)


@internal
def _move(sender: address, receiver: address, units: uint256):
    self.balanceOf[sender] -= units
    self.balanceOf[receiver] += units
    log Transfer(sender=sender, receiver=receiver, value=units)


@external
@raw_return
def transfer(receiver: address, units: uint256) -> Bytes[32]:
    if self.mode == REVERT:
        raise "transfers are paused"
    if self.mode == REFUSE:
        return abi_encode(False)
    if self.mode == LIE:
        return abi_encode(True)
    if self.mode == FEE:
        self._move(msg.sender, receiver, units - units // 100)
        self._move(msg.sender, empty(address), units // 100)
    elif self.mode == HALVES:
        self._move(msg.sender, receiver, units // 2)
        self._move(msg.sender, receiver, units - units // 2)
    else:
        self._move(msg.sender, receiver, units)
    if self.mode == SILENT:
        return b""
    return abi_encode(True)


@external
def transfer_many(receivers: DynArray[address, 50], units: uint256):
    for receiver: address in receivers:
        self._move(msg.sender, receiver, units)
