// The plug-in of the Custom API new_StartQuote. It posts a request for the calling user and returns at once.
//
// The Custom API: unbound; ExecutePrivilegeName = prvCreatenew_quote; request parameters RequestId (Guid), ResultId
// (Guid), ReplyKey (String), Customer (String), Amount (Decimal); response property MessageId (String); this class as its
// plug-in type. The caller makes both IDs and the key at random, with dotnet-reader/ReplyKey.cs or its like, and
// keeps them for a repeated attempt. It finds its result in the session ResultId, and checks it with the key.
// The assembly: signed and bound to a managed identity (Microsoft Learn, "Set up Power Platform managed identity").
// The identity: "Azure Service Bus Data Sender" on the one queue, and its object ID in the worker's `claims.asserters`.

using System;
using System.IO;
using System.Net;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using Microsoft.Xrm.Sdk;

public sealed class StartQuote : IPlugin
{
    private const string Queue = "https://contoso.servicebus.windows.net/flow-requests-plugins";
    private const string BusScope = "https://servicebus.azure.net/.default";
    private const string WorkerScope = "api://66666666-7777-8888-9999-000000000000/.default";

    public void Execute(IServiceProvider services)
    {
        var context = (IPluginExecutionContext2)services.GetService(typeof(IPluginExecutionContext2));
        var identity = (IManagedIdentityService)services.GetService(typeof(IManagedIdentityService));

        // Take the user from the platform, never from a parameter: the worker checks this user's privilege.
        var user = context.InitiatingUserAzureActiveDirectoryObjectId;
        if (user == Guid.Empty) throw new InvalidPluginExecutionException("The caller has no Entra object ID.");

        var replyKey = (string)context.InputParameters["ReplyKey"];
        if (!ReplyKey.IsValid(replyKey)) throw new InvalidPluginExecutionException("ReplyKey has not the form of a key.");

        // With RequestId a repeated attempt is the same request. The user's ID keeps others from using it.
        var messageId = $"{user:D}/{(Guid)context.InputParameters["RequestId"]:D}";
        var request = new FlowRequest
        {
            Flow = "create-quote", // fixed: the caller cannot choose it
            Input = new QuoteInput
            {
                Customer = (string)context.InputParameters["Customer"],
                Amount = (decimal)context.InputParameters["Amount"],
            },
            Claim = identity.AcquireToken(new[] { WorkerScope }),
            OnBehalfOf = user.ToString("D"),
        };
        var properties = new BrokerProperties
        {
            MessageId = messageId,
            CorrelationId = ((Guid)context.InputParameters["ResultId"]).ToString("D"), // and the session of the result
            TimeToLive = 600,
        };
        Post(request, properties, replyKey, identity.AcquireToken(new[] { BusScope }));
        context.OutputParameters["MessageId"] = messageId;
    }

    private static void Post(FlowRequest request, BrokerProperties properties, string replyKey, string token)
    {
        using (var client = new HttpClient { Timeout = TimeSpan.FromSeconds(10) }) // the sandbox allows 15
        using (var message = new HttpRequestMessage(HttpMethod.Post, Queue + "/messages"))
        {
            message.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
            message.Headers.TryAddWithoutValidation("BrokerProperties", Json(properties));
            message.Headers.TryAddWithoutValidation("contract", "\"flow-request/1\""); // with quotation marks
            message.Headers.TryAddWithoutValidation("reply_key", $"\"{replyKey}\"");
            message.Headers.ConnectionClose = true;
            message.Content = new StringContent(Json(request), Encoding.UTF8, "application/json");
            using (var response = Send(client, message))
            {
                if (response.StatusCode != HttpStatusCode.Created)
                    throw new InvalidPluginExecutionException($"Service Bus answered {(int)response.StatusCode}.");
            }
        }
    }

    private static HttpResponseMessage Send(HttpClient client, HttpRequestMessage message)
    {
        try
        {
            return client.SendAsync(message).GetAwaiter().GetResult();
        }
        catch (HttpRequestException error)
        {
            throw new InvalidPluginExecutionException("Service Bus could not be reached.", error);
        }
        catch (OperationCanceledException error) // the timeout
        {
            throw new InvalidPluginExecutionException("Service Bus did not answer in time.", error);
        }
    }

    private static string Json<T>(T value)
    {
        using (var stream = new MemoryStream())
        {
            new DataContractJsonSerializer(typeof(T)).WriteObject(stream, value);
            return Encoding.UTF8.GetString(stream.ToArray());
        }
    }
}

[DataContract]
public sealed class FlowRequest
{
    [DataMember(Name = "flow")] public string Flow { get; set; }
    [DataMember(Name = "input")] public QuoteInput Input { get; set; }
    [DataMember(Name = "claim")] public string Claim { get; set; }
    [DataMember(Name = "on_behalf_of")] public string OnBehalfOf { get; set; }
}

[DataContract]
public sealed class QuoteInput
{
    [DataMember(Name = "customer")] public string Customer { get; set; }
    [DataMember(Name = "amount")] public decimal Amount { get; set; }
}

[DataContract]
public sealed class BrokerProperties
{
    [DataMember] public string MessageId { get; set; }
    [DataMember] public string CorrelationId { get; set; }
    [DataMember] public long TimeToLive { get; set; } // seconds
}
