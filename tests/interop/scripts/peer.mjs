// js-libp2p, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node peer.mjs [--listen MULTIADDR]... [--psk HEX]
// Copied beside its node_modules before it runs, because that is where node looks for them.

import { createHash, randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { createLibp2p } from 'libp2p'
import { ECHO, answerRequests, readToEnd, serveEcho } from './serving.mjs'

const CHUNK = 65536

const { values: options } = parseArgs({
  options: {
    listen: { type: 'string', multiple: true, default: ['/ip4/127.0.0.1/tcp/0'] },
    psk: { type: 'string' }
  }
})

const node = await createLibp2p({
  addresses: { listen: options.listen },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  connectionProtector: options.psk === undefined
    ? undefined
    : preSharedKey({ psk: Buffer.from(`/key/swarm/psk/1.0.0/\n/base16/\n${options.psk}`) }),
  services: { identify: identify(), ping: ping() }
})

async function send (stream, data) {
  if (!stream.send(data)) {
    await stream.onDrain()
  }
}

await serveEcho(node)

function connectionTo (peer) {
  const found = node.getConnections().find((connection) => connection.remotePeer.toString() === peer)
  if (found === undefined) {
    throw new Error(`not connected to ${peer}`)
  }
  return found
}

await answerRequests(node, {
  ping: async ({ peer }) => await node.services.ping.ping(connectionTo(peer).remotePeer) / 1000,
  async identified ({ peer }) {
    const known = await node.peerStore.get(connectionTo(peer).remotePeer)
    const text = (key) => new TextDecoder().decode(known.metadata.get(key))
    return {
      agent: text('AgentVersion'),
      protocol_version: text('ProtocolVersion'),
      protocols: known.protocols,
      addrs: known.addresses.map(({ multiaddr }) => multiaddr.toString())
    }
  },
  // Sends everything, half-closes, and reads until the other side has closed too.
  async echo ({ peer, size }) {
    const payload = randomBytes(size)
    const stream = await connectionTo(peer).newStream(ECHO)
    const hash = createHash('sha256')
    let received = 0
    const reading = readToEnd(stream, (data) => {
      hash.update(data.subarray())
      received += data.byteLength
    })
    const sending = (async () => {
      for (let start = 0; start < size; start += CHUNK) {
        await send(stream, payload.subarray(start, start + CHUNK))
      }
      await stream.close()
    })()
    await Promise.all([reading, sending])
    const same = hash.digest('hex') === createHash('sha256').update(payload).digest('hex')
    return { sent: size, received, same }
  }
})
