// The plug-in of the Custom API new_StartQuote. It starts a flow for the calling user and returns at once.
//
// The Custom API: unbound; ExecutePrivilegeName = prvCreatenew_quote; request parameters RequestId (Guid), Customer
// (String), Amount (Decimal); response property GatewayRequest (String); this class as its plug-in type. The caller makes
// RequestId at random and keeps it for a repeated attempt.
// The assembly: signed and bound to a managed identity (Microsoft Learn, "Set up Power Platform managed identity").
// The identity: its object ID in the `claims.asserters` of the gateway and of the worker. It needs no right on Service Bus.

using System;
using System.Net.Http;
using System.Runtime.Serialization;
using Microsoft.Xrm.Sdk;

public sealed class StartQuote : IPlugin
{
    public void Execute(IServiceProvider services)
    {
        var context = (IPluginExecutionContext2)services.GetService(typeof(IPluginExecutionContext2));
        var user = Gateway.CallingUser(context); // the worker checks this user's privilege
        var input = new QuoteInput
        {
            Customer = (string)context.InputParameters["Customer"],
            Amount = (decimal)context.InputParameters["Amount"],
        };
        // The name of the flow is fixed: the caller cannot choose it.
        var started = Gateway.Call<Started>(services, HttpMethod.Post, "/v1/flows/create-quote/requests", request =>
        {
            request.Headers.TryAddWithoutValidation("On-Behalf-Of", user.ToString("D"));
            // A repeated attempt with the same ID is the same request. The gateway keeps the keys of users apart.
            request.Headers.TryAddWithoutValidation("Idempotency-Key", $"\"{context.InputParameters["RequestId"]:D}\"");
            request.Content = Gateway.Json(input);
        });
        context.OutputParameters["GatewayRequest"] = started.Id ?? started.CorrelationId;
    }
}

[DataContract]
public sealed class QuoteInput
{
    [DataMember(Name = "customer")] public string Customer { get; set; }
    [DataMember(Name = "amount")] public decimal Amount { get; set; }
}

[DataContract]
public sealed class Started
{
    [DataMember(Name = "id")] public string Id { get; set; }
    [DataMember(Name = "correlation_id")] public string CorrelationId { get; set; } // of a result
}
