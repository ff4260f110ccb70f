// Replaces @azure/identity: the test supplies the tokens of the user, because the test cannot sign in.
export class InteractiveBrowserCredential {
  async getToken(scopes) {
    const scope = [scopes].flat()[0];
    const token = scope.startsWith("api://") ? config.claim : config.busToken;
    return { token, expiresOnTimestamp: Date.now() + 3_600_000 };
  }
}
