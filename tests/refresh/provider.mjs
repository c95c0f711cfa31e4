// A real authorization server (oidc-provider) on loopback. Nothing of its token endpoint is written here: single-use
// refresh tokens, their reuse and the revocation of the family are the package's own.
//
//   node provider.mjs FOLDER     FOLDER/node_modules has the package; it prints its port, and ends with its input
//   POST /seed?client=ID         a refresh token as a login would have given it, made by the package's own models
//   GET  /counts                 exchanges, refusals and revoked families, from the package's events
//   POST /set?ttl=S&grace=MS&delay=MS
//        the access tokens' lifetime; how long a spent refresh token is still taken; how long an answer is held back
//        once its token is spent
//   POST /introspect             with {"token"}: whether an access token is good, by the package's own models
import http from 'node:http'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder] = process.argv.slice(2)
const require = createRequire(`${folder}/`)
const load = (name) => import(pathToFileURL(require.resolve(name)).href)
const { Provider } = await load('oidc-provider')
const { exportJWK, generateKeyPair } = await load('jose')

const settings = { ttl: 3600, grace: 0, delay: 0 }
const counts = { exchanges: 0, refusals: 0, revoked: 0, reasons: {} }

// The adapter in memory, as the package's documentation has it. In the grace period a spent token counts as unspent.
const store = new Map()
const families = new Map()
class Memory {
  constructor(name) { this.name = name }
  key(id) { return `${this.name}:${id}` }
  async upsert(id, payload, expiresIn) {
    store.set(this.key(id), { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity })
    if (payload.grantId) families.set(payload.grantId, [...(families.get(payload.grantId) ?? []), this.key(id)])
  }
  async find(id) {
    const found = store.get(this.key(id))
    if (!found || found.until < Date.now()) return undefined
    const { spentAt, ...payload } = found.payload
    const isSpent = spentAt !== undefined && Date.now() - spentAt >= settings.grace
    return isSpent ? { ...payload, consumed: Math.floor(spentAt / 1000) } : payload
  }
  async findByUserCode() {}
  async findByUid() {}
  async consume(id) { store.get(this.key(id)).payload.spentAt ??= Date.now() }
  async destroy(id) { store.delete(this.key(id)) }
  async revokeByGrantId(id) { for (const key of families.get(id) ?? []) store.delete(key); families.delete(id) }
}

const client = (id, method, secret) => ({
  client_id: id,
  ...(secret && { client_secret: secret }),
  token_endpoint_auth_method: method,
  grant_types: ['refresh_token', 'authorization_code'],
  redirect_uris: ['http://127.0.0.1/callback'],
})
const server = http.createServer()
await new Promise((done) => server.listen(0, '127.0.0.1', done))
const issuer = `http://127.0.0.1:${server.address().port}`
const provider = new Provider(issuer, {
  adapter: Memory,
  clients: [
    client('mail-basic', 'client_secret_basic', 'a secret: with % and &'),
    client('mail-post', 'client_secret_post', 'a secret: with % and &'),
    client('mail-public', 'none'),
  ],
  scopes: ['openid', 'offline_access', 'mail.read'],
  rotateRefreshToken: true,
  features: { devInteractions: { enabled: false } },
  ttl: { AccessToken: () => settings.ttl, RefreshToken: 86400, Grant: 86400, IdToken: 60 },
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  cookies: { keys: ['test'] },
  jwks: { keys: [await exportJWK((await generateKeyPair('RS256', { extractable: true })).privateKey)] },
})
provider.on('grant.success', () => { counts.exchanges++ })
provider.on('grant.error', (_, error) => { counts.refusals++; counts.reasons[error.error] = (counts.reasons[error.error] ?? 0) + 1 })
provider.on('grant.revoked', () => { counts.revoked++ })
provider.on('server_error', (_, error) => { console.error(error) })

async function seed(clientId) {
  const grant = new provider.Grant({ accountId: 'alice', clientId })
  grant.addOIDCScope('openid offline_access mail.read')
  const now = Math.floor(Date.now() / 1000)
  const token = new provider.RefreshToken({
    accountId: 'alice', client: await provider.Client.find(clientId), grantId: await grant.save(),
    gty: 'authorization_code', scope: 'openid offline_access mail.read', claims: {}, iiat: now, authTime: now,
  })
  return { refresh_token: await token.save() }
}

async function bodyOf(req) {
  let text = ''
  for await (const chunk of req) text += chunk
  return text
}

const handle = provider.callback()
server.on('request', async (req, res) => {
  const url = new URL(req.url, issuer)
  const json = (body) => { res.setHeader('content-type', 'application/json'); res.end(JSON.stringify(body)) }
  if (url.pathname === '/seed') return json(await seed(url.searchParams.get('client')))
  if (url.pathname === '/counts') return json(counts)
  if (url.pathname === '/introspect') {
    return json({ active: Boolean(await provider.AccessToken.find(JSON.parse(await bodyOf(req)).token)) })
  }
  if (url.pathname === '/set') {
    for (const [name, value] of url.searchParams) settings[name] = Number(value)
    return json(settings)
  }
  // Held back AFTER the endpoint has done its work: whoever dies meanwhile has spent the token. Before it, a client's
  // death would only drop its request.
  if (url.pathname === '/token' && settings.delay) {
    const end = res.end.bind(res)
    res.end = (...rest) => { setTimeout(() => end(...rest), settings.delay); return res }
  }
  handle(req, res)
})
console.log(server.address().port)
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
