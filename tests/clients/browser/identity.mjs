// In the place of @azure/identity: nobody can sign in here, so the test gives the user's tokens to the page.
export class InteractiveBrowserCredential {
  async getToken(scopes) {
    const scope = [scopes].flat()[0];
    const token = scope.startsWith("api://") ? config.claim : config.busToken;
    return { token, expiresOnTimestamp: Date.now() + 3_600_000 };
  }
}
