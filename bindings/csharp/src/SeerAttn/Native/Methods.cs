using System;
using System.Runtime.InteropServices;

namespace SeerAttn.Native
{
    // Every function of seerattn.h. Handles are SafeHandles, so that none is released while a call uses it. The calls
    // that take a context as an IntPtr are for work in flight, whose Call holds a reference even after Dispose.
    internal static unsafe class Methods
    {
        private const string Library = Loader.Name;
        private const CallingConvention C = CallingConvention.Cdecl;

        // Runs before the first call.
        static Methods()
        {
            Loader.Register();
        }

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern uint seer_version();

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern byte* seer_status_name(SeerStatus status);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern byte* seer_last_error();

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_device_count(SeerBackend backend, int* count);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_device_get(SeerBackend backend, int ordinal, seer_device_info* info);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_context_create(seer_context_params* parameters, out ContextHandle context);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_context_info(ContextHandle context, seer_device_info* info);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_context_release(IntPtr context);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_model_load_dir(ContextHandle context, byte* dir,
            seer_load_params* parameters, out ModelHandle model);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_model_load_memory(ContextHandle context, byte* config, ulong configSize,
            byte* weights, ulong weightsSize, seer_load_params* parameters, out ModelHandle model);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_model_create(ContextHandle context, seer_gate_config* config,
            seer_gate_weights** layers, out ModelHandle model);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_model_save(ModelHandle model, byte* dir);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_model_config(ModelHandle model, seer_gate_config* config);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_model_release(IntPtr model);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_buffer_create(ContextHandle context, ulong size, uint flags,
            out BufferHandle buffer);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_buffer_address(BufferHandle buffer, void** address);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_buffer_write(BufferHandle buffer, ulong offset, void* source, ulong size);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_buffer_read(BufferHandle buffer, ulong offset, void* target, ulong size);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_buffer_release(IntPtr buffer);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_cancel_create(out CancelHandle cancel);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_cancel_trigger(CancelHandle cancel);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_cancel_release(IntPtr cancel);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_gate_cache_create(ContextHandle context, ModelHandle model,
            seer_gate_cache_params* parameters, out GateCacheHandle cache);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_gate_cache_length(GateCacheHandle cache, int layer, int sequence,
            long* tokens);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_gate_cache_truncate(GateCacheHandle cache, int sequence, long tokens);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern void seer_gate_cache_release(IntPtr cache);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_prefill(ContextHandle context, ModelHandle model, int layer,
            seer_prefill_desc* desc, seer_submit* submit, ulong* ticket);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_gate(ContextHandle context, ModelHandle model, int layer,
            seer_gate_desc* desc, seer_submit* submit, ulong* ticket);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_select(ContextHandle context, seer_select_desc* desc, seer_submit* submit,
            ulong* ticket);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_attention(ContextHandle context, seer_attention_desc* desc,
            seer_submit* submit, ulong* ticket);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_prefill_workspace(ContextHandle context, ModelHandle model,
            seer_prefill_desc* desc, ulong* bytes);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_wait(IntPtr context, ulong ticket, ulong timeoutNanoseconds);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_on_done(IntPtr context, ulong ticket, IntPtr done, IntPtr user);

        [DllImport(Library, CallingConvention = C, ExactSpelling = true)]
        public static extern SeerStatus seer_ticket_stats(IntPtr context, ulong ticket, seer_stats* stats);
    }
}
