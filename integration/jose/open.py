# Prints the identity that is sealed in a token, by the library jwcrypto.
import json, os, sys
from jwcrypto import jwe, jwk

token = jwe.JWE(algs=['dir', 'A256GCM'])
token.deserialize(sys.argv[1], jwk.JWK(kty='oct', k=os.environ['IDENTITY_KEY']))
print(json.loads(token.payload)['sub'])
