// Gets the user's token for the worker's API. The gateway verifies it; the browser holds no other token.

import { InteractionRequiredAuthError, IPublicClientApplication, PublicClientApplication } from "@azure/msal-browser";

const scopes = ["api://66666666-7777-8888-9999-000000000000/access_as_user"];
const auth = {
  clientId: "11111111-2222-3333-4444-555555555555", // the front end's app registration, of the type single-page
  authority: "https://login.microsoftonline.com/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
  redirectUri: `${location.origin}/webresources/contoso_/redirect.html`, // an empty page
};
let application: Promise<IPublicClientApplication> | undefined;

export async function token(refused: boolean): Promise<string> {
  application ??= PublicClientApplication.createPublicClientApplication({ auth });
  const msal = await application;
  const [account] = msal.getAllAccounts();
  try {
    // `refused`: the gateway answered 401, so the cached token is of no use.
    const silent = { scopes, account, forceRefresh: refused };
    return (await (account ? msal.acquireTokenSilent(silent) : msal.ssoSilent({ scopes }))).accessToken;
  } catch (error) {
    if (!(error instanceof InteractionRequiredAuthError)) throw error;
    return (await msal.acquireTokenPopup({ scopes })).accessToken;
  }
}
