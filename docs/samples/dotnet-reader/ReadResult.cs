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
    private static readonly TimeSpan MoreResults = TimeSpan.FromMilliseconds(250); // the wait for a newer result
    private const int MaxSkipped = 100; // messages of others that one search leaves in the session
    private static int ignored; // messages without a valid MAC under the reply key

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
            if (ignored > 0)
            {
                Console.Error.WriteLine(
                    $"Messages ignored: {ignored}. Their MACs do not fit REPLY_KEY. Is it the key of this request?");
            }
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

    /// <summary>
    /// Return the body of the newest result, or null if none arrives in time. A request has several results if an
    /// operator replayed it; another call returns an older one.
    /// </summary>
    private static async Task<string> Find(
        ServiceBusClient client, string messageId, string correlationId, string key, TimeSpan timeout)
    {
        var clock = Stopwatch.StartNew();
        var session = await client.AcceptSessionAsync(Replies, correlationId);
        try
        {
            ServiceBusReceivedMessage newest = null;
            var skipped = 0;
            while (newest != null || clock.Elapsed < timeout)
            {
                var message = await session.ReceiveMessageAsync(newest == null ? timeout - clock.Elapsed : MoreResults);
                if (message == null && newest != null) break;
                if (message == null) continue;
                var body = message.Body.ToArray();
                var isAuthentic = IsAuthentic(message, body, key);
                if (!isAuthentic) ignored++;
                var ids = isAuthentic ? IdsOf(body) : new ResultIds();
                if (ids.RequestMessageId == messageId || ids.ReplayOf == messageId)
                {
                    // The others stay locked until the session closes.
                    if (newest == null || ids.ReplayOf == messageId) newest = message;
                    continue;
                }
                // A skipped message stays locked until the session closes. Beyond a hundred, somebody floods the session.
                if (++skipped > MaxSkipped) await session.CompleteMessageAsync(message);
            }
            if (newest == null) return null;
            await session.CompleteMessageAsync(newest);
            return Encoding.UTF8.GetString(newest.Body.ToArray());
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

    /// <summary>Return the request of a result and, for a result of a replay, the request that was replayed.</summary>
    private static ResultIds IdsOf(byte[] body)
    {
        using (var stream = new MemoryStream(body))
        {
            return (ResultIds)new DataContractJsonSerializer(typeof(ResultIds)).ReadObject(stream);
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
