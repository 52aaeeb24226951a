using System;
using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>The sequences of a packed batch: they lie behind one another, q is [T, Hq, D], and each behaves as if
    /// it ran alone.</summary>
    public sealed class SeerSequences
    {
        private readonly int[] q;
        private readonly int[] k;

        /// <summary>Names the borders of the sequences.</summary>
        /// <param name="queryOffsets">One more than there are sequences: 0, rising, ending at the number of all query
        /// tokens. Copied.</param>
        /// <param name="keyOffsets">As many, for k and v; null: the same.</param>
        public SeerSequences(int[] queryOffsets, int[] keyOffsets = null)
        {
            if (queryOffsets == null) throw new ArgumentNullException(nameof(queryOffsets));
            if (queryOffsets.Length < 2)
                throw new ArgumentException("A batch of n sequences has n + 1 offsets; n is at least 1.",
                    nameof(queryOffsets));
            if (keyOffsets != null && keyOffsets.Length != queryOffsets.Length)
                throw new ArgumentException("There are " + keyOffsets.Length + " key offsets for " + queryOffsets.Length
                    + " query offsets.", nameof(keyOffsets));
            q = (int[])queryOffsets.Clone();
            k = keyOffsets == null ? null : (int[])keyOffsets.Clone();
        }

        /// <summary>How many sequences there are.</summary>
        public int Count => q.Length - 1;

        internal static unsafe seer_sequences ToNative(SeerSequences sequences, Call call)
        {
            seer_sequences native = default(seer_sequences);
            if (sequences == null) return native;
            native.count = sequences.Count;
            native.q = (int*)call.Pin<int>(sequences.q);
            if (sequences.k != null) native.k = (int*)call.Pin<int>(sequences.k);
            return native;
        }
    }
}
