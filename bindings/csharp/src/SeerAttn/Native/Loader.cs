using System;
#if NETCOREAPP
using System.Reflection;
using System.Runtime.InteropServices;
#endif

namespace SeerAttn.Native
{
    // Finds the shared library. DllImport alone looks for libseerattn.so, which only development packages have.
    internal static class Loader
    {
        public const string Name = "seerattn";

        public static void Register()
        {
            if (IntPtr.Size != 8) throw new PlatformNotSupportedException("seerattn supports 64-bit processes only");
#if NETCOREAPP
            NativeLibrary.SetDllImportResolver(typeof(Loader).Assembly, Resolve);
#endif
        }

#if NETCOREAPP
        private static IntPtr Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath)
        {
            if (name != Name) return IntPtr.Zero;
            // A library that was asked for and cannot be loaded is an error, not a reason to take another one.
            string asked = Environment.GetEnvironmentVariable("SEERATTN_LIB");
            if (!string.IsNullOrEmpty(asked)) return NativeLibrary.Load(asked);
            string[] names = RuntimeInformation.IsOSPlatform(OSPlatform.Windows)
                ? new[] { "seerattn-0.dll", "libseerattn-0.dll" }
                : RuntimeInformation.IsOSPlatform(OSPlatform.OSX) ? new[] { "libseerattn.0.dylib" }
                : new[] { "libseerattn.so.0" };
            foreach (string versioned in names)
            {
                IntPtr library;
                if (NativeLibrary.TryLoad(versioned, assembly, searchPath, out library)) return library;
            }
            return IntPtr.Zero; // the runtime then tries what DllImport names, and says what it tried
        }
#endif
    }
}
