// Reads the result of a request that another program sent, for example the plug-in StartQuote.
// Use: ReadResult MESSAGE_ID CORRELATION_ID [SECONDS], with the request's reply key in REPLY_KEY.
// SERVICEBUS_NAMESPACE names the namespace; or SERVICEBUS_CONNECTION_STRING has a connection string.
//
// The result leaves the queue and is printed as JSON. Exit status: 0 a result of any status; 1 none within the time;
// 2 wrong use.

using System;
using System.Diagnostics;
using System.IO;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading.Tasks;
using Azure.Identity;
using Azure.Messaging.ServiceBus;

public static class ReadResult
{
    private const string Replies = "flow-replies";
    private const string Contract = "flow-result/1";
    private const int MaxSkipped = 100; // messages of others that one search leaves in the session

    public static int Main(string[] arguments)
    {
        return Run(arguments).GetAwaiter().GetResult();
    }

    private static async Task<int> Run(string[] arguments)
    {
        var key = Environment.GetEnvironmentVariable("REPLY_KEY");
        var seconds = 30;
        if (arguments.Length < 2 || arguments.Length > 3 || !ReplyKey.IsValid(key)
            || (arguments.Length == 3 && (!int.TryParse(arguments[2], out seconds) || seconds <= 0)))
        {
            Console.Error.WriteLine("Use: ReadResult MESSAGE_ID CORRELATION_ID [SECONDS], with a reply key in REPLY_KEY");
            return 2;
        }
        var client = Connected();
        try
        {
            var result = await Find(client, arguments[0], arguments[1], key, TimeSpan.FromSeconds(seconds));
            if (result == null)
            {
                Console.Error.WriteLine($"No result within {seconds} s. It may still arrive.");
                return 1;
            }
            Console.WriteLine(result);
            return 0;
        }
        finally
        {
            await client.DisposeAsync();
        }
    }

    /// <summary>Return the body of the result, or null if it does not arrive in time.</summary>
    private static async Task<string> Find(
        ServiceBusClient client, string messageId, string correlationId, string key, TimeSpan timeout)
    {
        var clock = Stopwatch.StartNew();
        var session = await client.AcceptSessionAsync(Replies, correlationId);
        try
        {
            for (var skipped = 0; clock.Elapsed < timeout;)
            {
                var message = await session.ReceiveMessageAsync(timeout - clock.Elapsed);
                if (message == null) continue;
                var body = message.Body.ToArray();
                if (IsAuthentic(message, body, key) && Answers(body, messageId))
                {
                    await session.CompleteMessageAsync(message);
                    return Encoding.UTF8.GetString(body);
                }
                // A skipped message stays locked until the session closes. Beyond a hundred, somebody floods the session.
                if (++skipped > MaxSkipped) await session.CompleteMessageAsync(message);
            }
            return null;
        }
        finally
        {
            await session.DisposeAsync();
        }
    }

    private static bool IsAuthentic(ServiceBusReceivedMessage message, byte[] body, string key)
    {
        message.ApplicationProperties.TryGetValue("contract", out var contract);
        message.ApplicationProperties.TryGetValue("reply_mac", out var mac);
        return ReplyKey.IsAuthentic(key, body, message.MessageId, contract as string, mac as string)
            && contract as string == Contract; // a later program can still read other versions
    }

    /// <summary>Return whether a result is that of this request, or of its replay by an operator.</summary>
    private static bool Answers(byte[] body, string messageId)
    {
        using (var stream = new MemoryStream(body))
        {
            var ids = (ResultIds)new DataContractJsonSerializer(typeof(ResultIds)).ReadObject(stream);
            return ids.RequestMessageId == messageId || ids.ReplayOf == messageId;
        }
    }

    private static ServiceBusClient Connected()
    {
        var text = Environment.GetEnvironmentVariable("SERVICEBUS_CONNECTION_STRING");
        if (!string.IsNullOrEmpty(text)) return new ServiceBusClient(text);
        var name = Environment.GetEnvironmentVariable("SERVICEBUS_NAMESPACE");
        return new ServiceBusClient(name, new DefaultAzureCredential());
    }
}

[DataContract]
public sealed class ResultIds
{
    [DataMember(Name = "request_message_id")] public string RequestMessageId { get; set; }
    [DataMember(Name = "replay_of")] public string ReplayOf { get; set; }
}
