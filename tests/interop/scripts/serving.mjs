// What the scripts of js-libp2p have in common: requests, and the echo protocol.

import { createInterface } from 'node:readline'
import { multiaddr } from '@multiformats/multiaddr'

export const ECHO = '/lattica-test/echo/1.0.0'

// Calls onData with everything until the remote closes its side. Not `for await`: in
// @libp2p/utils 7 that never ends when the remote closed before the iteration began.
export function readToEnd (stream, onData) {
  return new Promise((resolve, reject) => {
    stream.addEventListener('close', ({ error }) => error === undefined ? resolve() : reject(error))
    stream.addEventListener('end', resolve)
    stream.addEventListener('message', ({ data }) => onData(data))
    if (stream.readableEnded) {
      resolve()
    }
  })
}

export async function serveEcho (node, options = {}) {
  await node.handle(ECHO, async (stream) => {
    try {
      await readToEnd(stream, (data) => stream.send(data))
      await stream.close()
    } catch (error) {
      stream.abort(error)
    }
  }, options)
}

// Says that the node is ready, and answers JSON requests on stdin by JSON replies on stdout until
// there are no more. Every node can be asked to connect, and for its peers.
export async function answerRequests (node, more) {
  const requests = {
    async connect ({ addr, timeout }) {
      await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(timeout * 1000) })
      return null
    },
    peers: async () => node.getPeers().map((peer) => peer.toString()),
    ...more
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
}
