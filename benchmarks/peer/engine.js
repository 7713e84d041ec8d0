// The engine of the benchmarks around ilp-settlement-core; ../engine.py is the same in Python.
// Its settings come from the environment: PORT, REDIS_PORT, CONNECTOR_URL and ACCOUNTS.

const net = require('net')
const BigNumber = require('bignumber.js').BigNumber
const { startServer, connectRedis } = require('ilp-settlement-core')

const { PORT, REDIS_PORT, CONNECTOR_URL, ACCOUNTS } = process.env

// The package binds every interface, and does not tell when; a benchmark stays on loopback.
const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...rest) {
  this.once('listening', () => console.log(`listens on http://127.0.0.1:${PORT}`))
  return listen.call(this, port, '127.0.0.1', ...rest)
}
let credits = 0

async function workers(total, atOnce, work) {
  let next = 0
  const run = async () => {
    while (next < total) await work(`a${next++ % ACCOUNTS}`)
  }
  await Promise.all(Array.from({ length: atOnce }, run))
}

const createEngine = async services => ({
  settle: async (_accountId, amount) => amount,
  handleMessage: async (_accountId, message) => {
    if (message.type === 'credit') {
      workers(message.count, message.at_once, accountId =>
        services.creditSettlement(accountId, new BigNumber(1), `c${credits++}`)
      )
    } else if (message.type === 'send') {
      workers(message.count, message.at_once, accountId =>
        services.sendMessage(accountId, { type: 'echo' })
      )
    }
    return message
  }
})

async function main() {
  const store = await connectRedis({ host: '127.0.0.1', port: +REDIS_PORT })
  await startServer(createEngine, store, { port: PORT, connectorUrl: CONNECTOR_URL })
}

main()
