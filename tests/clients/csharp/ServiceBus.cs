// Stand-ins for the types of Azure.Messaging.ServiceBus and Azure.Identity that docs/samples/dotnet-reader uses, with the
// members it uses and the signatures of the reference, https://learn.microsoft.com/dotnet/api/azure.messaging.servicebus.
// There is no AMQP in Mono: a Python process with the SDK for Python (session.py) receives and settles for them.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Threading.Tasks;

namespace Azure.Identity
{
    public abstract class TokenCredential
    {
    }

    public class DefaultAzureCredential : TokenCredential
    {
    }
}

namespace Azure.Messaging.ServiceBus
{
    public class ServiceBusClient
    {
        private readonly string connectionString;

        public ServiceBusClient(string connectionString)
        {
            this.connectionString = connectionString;
        }

        public ServiceBusClient(string fullyQualifiedNamespace, Azure.Identity.TokenCredential credential)
        {
            throw new NotSupportedException("The stand-in cannot sign in.");
        }

        public Task<ServiceBusSessionReceiver> AcceptSessionAsync(string queueName, string sessionId)
        {
            return Task.FromResult(new ServiceBusSessionReceiver(connectionString, queueName, sessionId));
        }

        public Task DisposeAsync()
        {
            return Task.FromResult(true);
        }
    }

    public class ServiceBusSessionReceiver
    {
        private readonly Process session;

        internal ServiceBusSessionReceiver(string connectionString, string queue, string sessionId)
        {
            session = new Process
            {
                StartInfo = new ProcessStartInfo(Environment.GetEnvironmentVariable("SESSION_PROGRAM"))
                {
                    Arguments = Environment.GetEnvironmentVariable("SESSION_ARGUMENTS"),
                    UseShellExecute = false,
                    RedirectStandardInput = true,
                    RedirectStandardOutput = true,
                },
            };
            session.Start();
            Ask(connectionString + "\t" + queue + "\t" + sessionId);
        }

        public Task<ServiceBusReceivedMessage> ReceiveMessageAsync(TimeSpan maxWaitTime)
        {
            var line = Ask("receive\t" + maxWaitTime.TotalSeconds.ToString(CultureInfo.InvariantCulture));
            return Task.FromResult(line == "none" ? null : new ServiceBusReceivedMessage(line.Split('\t')));
        }

        public Task CompleteMessageAsync(ServiceBusReceivedMessage message)
        {
            Ask("complete\t" + message.MessageId);
            return Task.FromResult(true);
        }

        public Task DisposeAsync()
        {
            session.StandardInput.Close();
            session.WaitForExit();
            return Task.FromResult(true);
        }

        private string Ask(string line)
        {
            session.StandardInput.WriteLine(line);
            session.StandardInput.Flush();
            return session.StandardOutput.ReadLine() ?? throw new InvalidOperationException("The session ended.");
        }
    }

    public class BinaryData
    {
        private readonly byte[] bytes;

        internal BinaryData(byte[] bytes)
        {
            this.bytes = bytes;
        }

        public byte[] ToArray()
        {
            return bytes;
        }
    }

    public class ServiceBusReceivedMessage
    {
        internal ServiceBusReceivedMessage(string[] fields)
        {
            MessageId = fields[0];
            Body = new BinaryData(Convert.FromBase64String(fields[1]));
            var properties = new Dictionary<string, object>();
            for (var at = 2; at < fields.Length; at += 2)
                properties[fields[at]] = Encoding.UTF8.GetString(Convert.FromBase64String(fields[at + 1]));
            ApplicationProperties = properties;
        }

        public string MessageId { get; }
        public BinaryData Body { get; }
        public IReadOnlyDictionary<string, object> ApplicationProperties { get; }
    }
}
