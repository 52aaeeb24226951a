using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using SeerAttn.Native;

namespace SeerAttn.Tests
{
    // The declarations against tests/abi/layout.json, which is made from the header.
    internal static class LayoutTests
    {
        private const BindingFlags Declared = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic;
        private const BindingFlags All = Declared | BindingFlags.Static;

        private static readonly Dictionary<string, Type> Enums = new Dictionary<string, Type>
        {
            { "seer_status", typeof(SeerStatus) }, { "seer_backend", typeof(SeerBackend) },
            { "seer_dtype", typeof(SeerDType) },
            { "seer_mem", typeof(SeerMemoryKind) }, { "seer_select_method", typeof(SeerSelectMethod) },
            { "seer_rope_kind", typeof(SeerRopeKind) }, { "seer_log_level", typeof(SeerLogLevel) },
        };

        private static readonly Dictionary<string, Type> Scalars = new Dictionary<string, Type>
        {
            { "int32_t", typeof(int) }, { "uint32_t", typeof(uint) }, { "int64_t", typeof(long) },
            { "uint64_t", typeof(ulong) }, { "double", typeof(double) }, { "uint8_t", typeof(byte) },
            { "char", typeof(byte) }, { "seer_ticket", typeof(ulong) },
        };

        // Constants whose C# names are not made from the C ones by dropping a prefix and the underscores.
        private static readonly Dictionary<string, object> Renamed = new Dictionary<string, object>
        {
            { "SEER_OK", SeerStatus.Ok }, { "SEER_NOT_READY", SeerStatus.NotReady },
            { "SEER_TIMEOUT", SeerStatus.Timeout },
            { "SEER_ROPE_INV_FREQ", SeerRopeKind.InverseFrequencies }, { "SEER_LOG_WARN", SeerLogLevel.Warning },
            { "SEER_POOL_AVG", SeerPool.Average }, { "SEER_DTYPE_NONE", SeerDType.None },
        };

        private static readonly KeyValuePair<string, Type>[] Prefixes =
        {
            new KeyValuePair<string, Type>("SEER_ERROR_", typeof(SeerStatus)),
            new KeyValuePair<string, Type>("SEER_BACKEND_", typeof(SeerBackend)),
            new KeyValuePair<string, Type>("SEER_MEM_", typeof(SeerMemoryKind)),
            new KeyValuePair<string, Type>("SEER_SELECT_", typeof(SeerSelectMethod)),
            new KeyValuePair<string, Type>("SEER_ROPE_", typeof(SeerRopeKind)),
            new KeyValuePair<string, Type>("SEER_LOG_", typeof(SeerLogLevel)),
            new KeyValuePair<string, Type>("SEER_POOL_", typeof(SeerPool)),
            new KeyValuePair<string, Type>("SEER_", typeof(SeerDType)),
        };

        private static Dictionary<string, object> Part(string name)
        {
            string file = Path.Combine(Program.Root, "tests", "abi", "layout.json");
            return (Dictionary<string, object>)Json.Parse(File.ReadAllText(file))[name];
        }

        private static int Int(object number) => (int)(decimal)number;

        [Test]
        private static void StructsAreThoseOfTheHeader()
        {
            Dictionary<string, object> structs = Part("structs");
            Expect.True(structs.Count >= 17, "structs in layout.json");
            foreach (KeyValuePair<string, object> entry in structs)
            {
                Type type = typeof(Methods).Assembly.GetType("SeerAttn.Native." + entry.Key);
                Expect.True(type != null, "a declaration of " + entry.Key);
                var layout = (Dictionary<string, object>)entry.Value;
                Expect.Equal(Int(layout["size"]), Marshal.SizeOf(type), "sizeof " + entry.Key);
                var fields = (List<object>)layout["fields"];
                FieldInfo[] declared = type.GetFields(Declared);
                Expect.Equal(string.Join(" ", fields.Select(f => (string)((Dictionary<string, object>)f)["name"])),
                    string.Join(" ", declared.Select(f => f.Name)), "fields of " + entry.Key);
                for (int i = 0; i < declared.Length; i++)
                {
                    var field = (Dictionary<string, object>)fields[i];
                    string name = entry.Key + "." + declared[i].Name;
                    Expect.Equal(Int(field["offset"]), (int)Marshal.OffsetOf(type, declared[i].Name), "offset of "
                        + name);
                    ExpectType((string)field["type"], declared[i], name);
                }
            }
            foreach (Type type in typeof(Methods).Assembly.GetTypes())
                if (type.Name.StartsWith("seer_", StringComparison.Ordinal))
                    Expect.True(structs.ContainsKey(type.Name), type.Name + " in the header");
        }

        private static void ExpectType(string c, FieldInfo field, string name)
        {
            int bracket = c.IndexOf('[');
            if (bracket >= 0)
            {
                var buffer = field.GetCustomAttribute<FixedBufferAttribute>();
                Expect.True(buffer != null, name + " to be a fixed array");
                Expect.Equal(Scalars[c.Substring(0, bracket)], buffer.ElementType, "element type of " + name);
                Expect.Equal(int.Parse(c.Substring(bracket + 1).TrimEnd(']')), buffer.Length, "length of " + name);
            }
            else
            {
                ExpectType(c, field.FieldType, name);
            }
        }

        private static void ExpectType(string c, Type type, string name)
        {
            Type scalar, known;
            if (c.Contains("*") || c.EndsWith("_fn", StringComparison.Ordinal))
                Expect.True(type == typeof(IntPtr) || type.IsPointer || type.IsByRef
                    || typeof(SafeHandle).IsAssignableFrom(type),
                    name + " to be a pointer, not " + type);
            else if (Enums.TryGetValue(c, out known))
                Expect.Equal(known, type, "type of " + name);
            else if (type.IsEnum)
                Expect.Equal(typeof(int), Enum.GetUnderlyingType(type), "underlying type of " + name + ", " + c);
            else if (Scalars.TryGetValue(c, out scalar))
                Expect.Equal(scalar, type, "type of " + name);
            else if (c == "void")
                Expect.Equal(typeof(void), type, "type of " + name);
            else
                Expect.Equal(c, type.Name, "type of " + name);
        }

        [Test]
        private static void ConstantsAreThoseOfTheHeader()
        {
            Dictionary<string, object> constants = Part("constants");
            Expect.True(constants.Count >= 69, "constants in layout.json");
            var seen = new HashSet<string>();
            foreach (KeyValuePair<string, object> constant in constants)
                Expect.Equal((decimal)constant.Value, ValueOf(constant.Key, seen), constant.Key);
            var enums = new List<Type>(Enums.Values) { typeof(SeerPool) };
            foreach (Type type in enums)
                foreach (object value in Enum.GetValues(type))
                    Expect.True(seen.Contains(type.Name + "." + value) || type == typeof(SeerPool) && (int)value == 0,
                        type.Name + "." + value + " in the header");
        }

        private static decimal ValueOf(string name, HashSet<string> seen)
        {
            FieldInfo constant = typeof(Constants).GetField(name, All);
            if (constant != null) return Convert.ToDecimal(constant.GetRawConstantValue());
            object value;
            if (!Renamed.TryGetValue(name, out value))
            {
                KeyValuePair<string, Type> prefix = Prefixes.First(p =>
                    name.StartsWith(p.Key, StringComparison.Ordinal));
                value = Enum.Parse(prefix.Value, name.Substring(prefix.Key.Length).Replace("_", ""), true);
            }
            seen.Add(value.GetType().Name + "." + value);
            return Convert.ToDecimal((int)value);
        }

        [Test]
        private static void FunctionsAreThoseOfTheHeader()
        {
            // References are counted by SafeHandle, which needs no more than the one that create gives.
            var unused = new HashSet<string> { "seer_context_retain", "seer_model_retain", "seer_buffer_retain" };
            Dictionary<string, object> prototypes = Part("prototypes");
            Expect.True(prototypes.Count >= 37, "functions in layout.json");
            foreach (KeyValuePair<string, object> prototype in prototypes)
            {
                if (unused.Contains(prototype.Key)) continue;
                MethodInfo method = typeof(Methods).GetMethod(prototype.Key, All);
                Expect.True(method != null, "a declaration of " + prototype.Key);
                var import = method.GetCustomAttribute<DllImportAttribute>();
                Expect.Equal(CallingConvention.Cdecl, import.CallingConvention, "calling convention of "
                    + prototype.Key);
                Expect.Equal("seerattn", import.Value, "library of " + prototype.Key);
                string text = (string)prototype.Value;
                int open = text.IndexOf('(');
                ExpectType(text.Substring(0, open).Trim(), method.ReturnType, "result of " + prototype.Key);
                string[] arguments = text.Substring(open + 1).TrimEnd(')').Split(',').Select(a => a.Trim()).ToArray();
                if (arguments.Length == 1 && arguments[0] == "void") arguments = new string[0];
                ParameterInfo[] parameters = method.GetParameters();
                Expect.Equal(arguments.Length, parameters.Length, "parameters of " + prototype.Key);
                for (int i = 0; i < arguments.Length; i++)
                    ExpectType(arguments[i], parameters[i].ParameterType, prototype.Key + "'s " + parameters[i].Name);
            }
            foreach (MethodInfo method in typeof(Methods).GetMethods(All))
                if (method.Name.StartsWith("seer_", StringComparison.Ordinal))
                    Expect.True(prototypes.ContainsKey(method.Name), method.Name + " in the header");
        }

        [Test]
        private static void TheLibraryIsOfTheHeadersVersion()
        {
            Expect.Equal(new Version(Constants.SEER_VERSION_MAJOR, Constants.SEER_VERSION_MINOR,
                Constants.SEER_VERSION_PATCH),
                SeerContext.LibraryVersion, "version");
        }
    }
}
