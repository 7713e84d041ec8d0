// The chain of the tests as hardhat runs it; nothing is compiled here.
module.exports = { solidity: "0.8.24", networks: { hardhat: { chainId: 31337 } } };
