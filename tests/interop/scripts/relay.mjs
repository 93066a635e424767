// js-libp2p's circuit relay, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node relay.mjs [--serve] [--reserve MULTIADDR]
// With --serve it relays for others; with --reserve it reserves at the relay of that address,
// and is reached through it. Copied beside its node_modules before it runs, because that is
// where node looks for them.

import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/lattica-test/echo/1.0.0'

const { values: options } = parseArgs({
  options: { serve: { type: 'boolean', default: false }, reserve: { type: 'string' } }
})

const listen = ['/ip4/127.0.0.1/tcp/0']
if (options.reserve !== undefined) {
  listen.push(`${options.reserve}/p2p-circuit`)
}
const services = { identify: identify(), ping: ping({ runOnLimitedConnection: true }) }
if (options.serve) {
  services.relay = circuitRelayServer({ reservations: { defaultDataLimit: BigInt(1 << 26) } })
}

const node = await createLibp2p({
  addresses: { listen },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services
})

// As in peer.mjs: `for await` never ends when the remote closed before the iteration began.
function readToEnd (stream, onData) {
  return new Promise((resolve, reject) => {
    stream.addEventListener('close', ({ error }) => error === undefined ? resolve() : reject(error))
    stream.addEventListener('end', resolve)
    stream.addEventListener('message', ({ data }) => onData(data))
    if (stream.readableEnded) {
      resolve()
    }
  })
}

await node.handle(ECHO, async (stream) => {
  try {
    await readToEnd(stream, (data) => stream.send(data))
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}, { runOnLimitedConnection: true })

const requests = {
  async connect ({ addr, timeout }) {
    await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(timeout * 1000) })
    return null
  },
  peers: async () => node.getPeers().map((peer) => peer.toString()),
  addrs: async () => node.getMultiaddrs().map((addr) => addr.toString()),
  async ping ({ peer }) {
    const found = node.getConnections().find((one) => one.remotePeer.toString() === peer)
    return await node.services.ping.ping(found.remotePeer) / 1000
  }
}

const reply = (message) => process.stdout.write(JSON.stringify(message) + '\n')

reply({
  ready: true,
  peer_id: node.peerId.toString(),
  addrs: node.getMultiaddrs().map((addr) => addr.toString())
})
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  try {
    reply({ id: request.id, result: await requests[request.do](request) })
  } catch (error) {
    reply({ id: request.id, error: `${error.name}: ${error.message}` })
  }
}
process.exit(0)
