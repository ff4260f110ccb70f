// Replaces @azure/identity: the test supplies the tokens of the user, because nobody can sign in here.
export class InteractiveBrowserCredential {
  async getToken(scopes) {
    const scope = [scopes].flat()[0];
    const token = scope.startsWith("api://") ? config.claim : config.busToken;
    return { token, expiresOnTimestamp: Date.now() + 3_600_000 };
  }
}
