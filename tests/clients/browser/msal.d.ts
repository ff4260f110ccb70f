// The part of the types of @azure/msal-browser 4 that the control uses.
export class InteractionRequiredAuthError extends Error {}

interface AccountInfo {
  username: string;
}

interface Result {
  accessToken: string;
}

export interface IPublicClientApplication {
  getAllAccounts(): AccountInfo[];
  ssoSilent(request: { scopes?: string[] }): Promise<Result>;
  acquireTokenSilent(request: { scopes: string[]; account?: AccountInfo; forceRefresh?: boolean }): Promise<Result>;
  acquireTokenPopup(request?: { scopes: string[] }): Promise<Result>;
}

export class PublicClientApplication {
  static createPublicClientApplication(configuration: {
    auth: { clientId: string; authority?: string; redirectUri?: string };
  }): Promise<IPublicClientApplication>;
}
