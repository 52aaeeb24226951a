using System;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>A call of the library failed. What was to be computed was not, and nothing else has changed.</summary>
    public sealed class SeerException : Exception
    {
        /// <summary>Makes an exception from a status and the library's words for it.</summary>
        /// <param name="status">What kind of error it was.</param>
        /// <param name="detail">Which argument or file, what was found and what was expected.</param>
        public SeerException(SeerStatus status, string detail)
            : base(string.IsNullOrEmpty(detail) ? NameOf(status) : NameOf(status) + ": " + detail)
        {
            Status = status;
            Detail = detail ?? "";
        }

        /// <summary>What kind of error it was.</summary>
        public SeerStatus Status { get; }

        /// <summary>The library's own words: which argument or file, what was found and what was expected. The same
        /// text in every language.</summary>
        public string Detail { get; }

        /// <summary>The name that C programs see, such as <c>SEER_ERROR_SHAPE</c>.</summary>
        public string StatusName => NameOf(Status);

        // To be called right after the call that failed: the text belongs to this thread's last failure.
        internal static void ThrowIfFailed(SeerStatus status)
        {
            if (status < 0) throw FromLastError(status);
        }

        internal static unsafe SeerException FromLastError(SeerStatus status)
        {
            return new SeerException(status, Text.Decode(Methods.seer_last_error()));
        }

        private static unsafe string NameOf(SeerStatus status) => Text.Decode(Methods.seer_status_name(status));
    }
}
