// Replaces @azure/msal-browser: the test supplies the token of the user, because the test cannot sign in.
// As at a first visit: no account, no silent sign-in, then a window.
export class InteractionRequiredAuthError extends Error {}

const accounts = [];

export class PublicClientApplication {
  static async createPublicClientApplication({ auth }) {
    if (!auth.redirectUri.startsWith(location.origin)) throw new Error("the redirect URI is of another origin");
    return new PublicClientApplication();
  }

  getAllAccounts() {
    return accounts;
  }

  async ssoSilent() {
    throw new InteractionRequiredAuthError();
  }

  async acquireTokenSilent({ account, forceRefresh }) {
    if (account !== accounts[0] || forceRefresh) throw new InteractionRequiredAuthError();
    return { accessToken: globalThis.userToken };
  }

  async acquireTokenPopup({ scopes }) {
    if (!scopes[0].startsWith("api://")) throw new Error("a scope of another API");
    accounts.push({});
    return { accessToken: globalThis.userToken };
  }
}
