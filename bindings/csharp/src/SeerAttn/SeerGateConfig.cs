using SeerAttn.Native;

namespace SeerAttn
{
    /// <summary>What the gates of a model are.</summary>
    public sealed class SeerGateConfig
    {
        /// <summary>A configuration to be filled in.</summary>
        public SeerGateConfig() { }

        internal SeerGateConfig(in seer_gate_config native)
        {
            Layers = native.layers;
            QHeads = native.q_heads;
            KvHeads = native.kv_heads;
            HeadDim = native.head_dim;
            GateDim = native.gate_dim;
            BlockSize = native.block_size;
            QPool = native.q_pool;
            KPool = native.k_pool;
            ForceDouble = native.force_double != 0;
            FirstLayer = native.first_layer;
            Rope = SeerRope.FromNative(native.rope);
            GateRope = SeerRope.FromNative(native.gate_rope);
            Select = new SeerSelection(native.select);
        }

        /// <summary>How many there are; of a model loaded in part, those loaded.</summary>
        public int Layers { get; set; }

        /// <summary>Query heads.</summary>
        public int QHeads { get; set; }

        /// <summary>Key/value heads; <see cref="QHeads"/> is a multiple of them.</summary>
        public int KvHeads { get; set; }

        /// <summary>D.</summary>
        public int HeadDim { get; set; }

        /// <summary>E.</summary>
        public int GateDim { get; set; }

        /// <summary>P: 32, 64 or 128.</summary>
        public int BlockSize { get; set; }

        /// <summary>Poolings of q.</summary>
        public SeerPool QPool { get; set; }

        /// <summary>Poolings of k.</summary>
        public SeerPool KPool { get; set; }

        /// <summary>A matrix for q exists even where the single form would do.</summary>
        public bool ForceDouble { get; set; }

        /// <summary>The number of the first one: calls name layers FirstLayer to FirstLayer + Layers - 1.</summary>
        public int FirstLayer { get; set; }

        /// <summary>The model's, of dim <see cref="HeadDim"/>.</summary>
        public SeerRope Rope { get; set; }

        /// <summary>The gate's, of dim <see cref="GateDim"/>; the default is as <see cref="Rope"/>.</summary>
        public SeerRope GateRope { get; set; }

        /// <summary>What a call selects that leaves it to the model.</summary>
        public SeerSelection Select { get; set; }

        internal unsafe seer_gate_config ToNative(Call call)
        {
            seer_gate_config native = default(seer_gate_config);
            native.struct_size = (uint)sizeof(seer_gate_config);
            native.layers = Layers;
            native.q_heads = QHeads;
            native.kv_heads = KvHeads;
            native.head_dim = HeadDim;
            native.gate_dim = GateDim;
            native.block_size = BlockSize;
            native.q_pool = QPool;
            native.k_pool = KPool;
            native.force_double = ForceDouble ? 1 : 0;
            native.first_layer = FirstLayer;
            native.rope = Rope.ToNative(call);
            native.gate_rope = GateRope.ToNative(call);
            native.select = Select.ToNative();
            return native;
        }
    }
}
