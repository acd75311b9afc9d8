// A real OpenID Connect provider for login_test.go: it prints its issuer and serves until its input ends. The accounts
// have the roles that their names say; so a test logs in as "admin", or as "nobody", who has none.
import { Provider } from "oidc-provider";
import { createServer } from "node:http";

const [redirect, secret] = process.argv.slice(2);
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: "pimoe", client_secret: secret, redirect_uris: [redirect], response_types: ["code"], grant_types: ["authorization_code"] }],
    cookies: { keys: ["only for tests"] },
    claims: { openid: ["sub", "groups", "org"] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: id === "nobody" ? [] : ["staff", id], org: "acme" }) }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
