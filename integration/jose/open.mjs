// Prints the identity that is sealed in a token, by the library jose.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const require = createRequire(new URL('../npm/package.json', import.meta.url))
const { jwtDecrypt } = await import(pathToFileURL(require.resolve('jose')))
const { payload } = await jwtDecrypt(process.argv[2], Buffer.from(process.env.IDENTITY_KEY, 'base64url'), {
  keyManagementAlgorithms: ['dir'], contentEncryptionAlgorithms: ['A256GCM'],
})
console.log(payload.sub)
