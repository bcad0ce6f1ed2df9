// An identity provider that is not ours, oidc-provider of npm: `node provider.mjs PACKAGE PORT FOLDER KEY…`.
// PACKAGE is the folder of oidc-provider. Keys are files in FOLDER, made when missing; the first one signs, all are
// published. A user with the name `anna-support-viewer` has the roles support and viewer.
import { generateKeyPairSync } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folderOfPackage, port, folder, ...names] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(join(folderOfPackage, "lib", "index.js")));

function key(name) {
  const file = join(folder, `${name}.json`);
  if (!existsSync(file)) {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    writeFileSync(file, JSON.stringify({ ...privateKey.export({ format: "jwk" }), kid: name, alg: "ES256", use: "sig" }));
  }
  return JSON.parse(readFileSync(file));
}

const claims = (account) => ({
  sub: account,
  roles: account.split("-").slice(1),
  email: `${account}@example.com`,
  email_verified: true,
});

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: names.map(key) },
  cookies: { keys: ["only for tests"] },
  clients: [
    {
      client_id: "console",
      application_type: "native",
      token_endpoint_auth_method: "none",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code"],
      response_types: ["code"],
      id_token_signed_response_alg: "ES256",
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => claims(id) }),
  extraTokenClaims: (_, token) => claims(token.accountId),
  features: {
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "shop",
        audience: "commerce-core",
        accessTokenFormat: "jwt",
        accessTokenTTL: 600,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
