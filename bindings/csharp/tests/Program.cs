using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Threading.Tasks;

namespace SeerAttn.Tests
{
    [AttributeUsage(AttributeTargets.Method)]
    internal sealed class TestAttribute : Attribute { }

    // Runs every method marked [Test], or those whose name contains an argument. A runner of our own, since a test
    // framework would have to come from a registry that is not reachable everywhere.
    internal static class Program
    {
        // The project's root, for tests/golden and tests/abi.
        public static string Root { get; private set; }

        private static int Main(string[] args)
        {
            if (args.Length < 1)
            {
                Console.Error.WriteLine("usage: tests PROJECT_ROOT [--exit-in-flight | PART_OF_A_NAME...]");
                return 2;
            }
            Root = args[0];
            if (args.Contains("--exit-in-flight")) return AsyncTests.ExitInFlight();
            string[] wanted = args.Skip(1).ToArray();
            int passed = 0;
            var failed = new List<string>();
            foreach (Type type in typeof(Program).Assembly.GetTypes().OrderBy(t => t.FullName))
            {
                foreach (MethodInfo method in type.GetMethods(BindingFlags.Static | BindingFlags.NonPublic))
                {
                    if (method.GetCustomAttribute<TestAttribute>() == null) continue;
                    string name = type.Name + "." + method.Name;
                    if (wanted.Length > 0 && !wanted.Any(part => name.Contains(part))) continue;
                    if (Run(name, method)) passed++;
                    else failed.Add(name);
                }
            }
            foreach (string name in failed) Console.WriteLine("FAILED " + name);
            Console.WriteLine(passed + " passed, " + failed.Count + " failed");
            return failed.Count == 0 && passed > 0 ? 0 : 1;
        }

        private static bool Run(string name, MethodInfo method)
        {
            Stopwatch watch = Stopwatch.StartNew();
            try
            {
                object result = method.Invoke(null, null);
                Task task = result as Task;
                // A test that hangs fails with its name instead of stopping the run without a word.
                if (task != null && !Task.WhenAny(task, Task.Delay(TimeSpan.FromSeconds(60))).Result.Equals(task))
                    throw new TimeoutException("not done after 60 s");
                if (task != null) task.GetAwaiter().GetResult();
                Console.WriteLine("ok " + name + " (" + watch.ElapsedMilliseconds + " ms)");
                return true;
            }
            catch (Exception error)
            {
                TargetInvocationException invocation = error as TargetInvocationException;
                Console.WriteLine("failed " + name + ": " + (invocation == null ? error : invocation.InnerException));
                return false;
            }
        }
    }

    internal static class Expect
    {
        public static void True(bool condition, string what)
        {
            if (!condition) throw new InvalidOperationException("expected: " + what);
        }

        public static void Equal<T>(T expected, T found, string what)
        {
            if (!EqualityComparer<T>.Default.Equals(expected, found))
                throw new InvalidOperationException(what + " is " + found + "; expected " + expected);
        }

        public static void Bytes(byte[] expected, byte[] found, string what)
        {
            Equal(expected.Length, found.Length, what + ": length");
            for (int i = 0; i < expected.Length; i++)
                if (expected[i] != found[i]) throw new InvalidOperationException(what + " differs at byte " + i);
        }

        public static T Throws<T>(Action action) where T : Exception
        {
            try
            {
                action();
            }
            catch (T error)
            {
                return error;
            }
            throw new InvalidOperationException("no " + typeof(T).Name + " was thrown");
        }

        public static async Task<T> ThrowsAsync<T>(Func<Task> action) where T : Exception
        {
            try
            {
                await action();
            }
            catch (T error)
            {
                return error;
            }
            throw new InvalidOperationException("no " + typeof(T).Name + " was thrown");
        }

        // The library refuses with this status, and its words contain this text.
        public static void Refused(SeerStatus status, string text, Action action)
        {
            SeerException error = Throws<SeerException>(action);
            Equal(status, error.Status, "status of \"" + error.Message + "\"");
            True(error.Detail.Contains(text), "\"" + text + "\" in \"" + error.Detail + "\"");
            True(error.Message == error.StatusName + ": " + error.Detail, "name and detail in the message");
        }
    }
}
