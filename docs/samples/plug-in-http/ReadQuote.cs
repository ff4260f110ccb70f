// The plug-in of the Custom API new_ReadQuote. It reads the result of a request that new_StartQuote started.
//
// The Custom API: unbound; a function; request parameter GatewayRequest (String); response properties Status (String:
// pending, succeeded, failed, refused, unknown, expired), Quote (String), ErrorCode (String). The caller asks again while
// the status is "pending". Both plug-ins have the same managed identity: the gateway gives a result to it and to the user.

using System;
using System.Net.Http;
using System.Runtime.Serialization;
using System.Text.RegularExpressions;
using Microsoft.Xrm.Sdk;

public sealed class ReadQuote : IPlugin
{
    public void Execute(IServiceProvider services)
    {
        var context = (IPluginExecutionContext2)services.GetService(typeof(IPluginExecutionContext2));
        var user = Gateway.CallingUser(context);
        var request = (string)context.InputParameters["GatewayRequest"];
        if (!Regex.IsMatch(request, @"\A[A-Za-z0-9_-]{1,128}\z"))
            throw new InvalidPluginExecutionException("GatewayRequest has not the form of a request's ID.");

        var path = $"/v1/requests/{request}?wait=10"; // below the time that the sandbox allows
        var result = Gateway.Call<Result>(services, HttpMethod.Get, path, _ => { });

        // The identity may read the results of all users for whom it started flows. This user gets its own only.
        if (result.Output != null && !string.Equals(result.RunFor, user.ToString("D"), StringComparison.OrdinalIgnoreCase))
            throw new InvalidPluginExecutionException("This user has no such request.");
        context.OutputParameters["Status"] = result.Status;
        context.OutputParameters["Quote"] = result.Output?.Quote;
        context.OutputParameters["ErrorCode"] = result.Error?.Code;
    }

    [DataContract]
    private sealed class Result
    {
        [DataMember(Name = "status")] public string Status { get; set; }
        [DataMember(Name = "run_for")] public string RunFor { get; set; }
        [DataMember(Name = "output")] public QuoteOutput Output { get; set; }
        [DataMember(Name = "error")] public Error Error { get; set; }
    }

    [DataContract]
    private sealed class QuoteOutput
    {
        [DataMember(Name = "quote")] public string Quote { get; set; }
    }

    [DataContract]
    private sealed class Error
    {
        [DataMember(Name = "code")] public string Code { get; set; }
    }
}
