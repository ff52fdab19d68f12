"""A program as libtpu prints it, abridged: one of each collective that it has its own way of writing."""

TEXT = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[1024,512]{1,0:T(8,128)})->f32[1]{0:T(128)}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_computation.2 (p.0: f32[512,512]) -> (f32[512,512], f32[2048,512], s32[2], u32[]) {
  %p.0 = f32[512,512]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.4 = f32[2048,512]{1,0:T(8,128)S(1)} all-gather(%p.0), channel_id=2, replica_groups={{0,1,2,3}}, \
dimensions={0}, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %custom-call.1 = (f32[512,512]{1,0:T(8,128)S(1)}, f32[2048,512]{1,0:T(8,128)S(1)}, s32[2]{0:S(4)}, u32[]{:S(2)}) \
custom-call(%all-gather.4), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.10 (p.1: f32[512,512], p.2: bf16[1024,512]) -> f32[1024,512] {
  %p.1 = f32[512,512]{1,0} parameter(0)
  %p.2 = bf16[1024,512]{1,0} parameter(1)
  %all-gather.6 = f32[2048,512]{1,0:T(8,128)S(1)} all-gather(%p.1), channel_id=2, replica_groups={{0,1,2,3}}, \
dimensions={0}, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %sine.1 = f32[1024,512]{1,0} sine(%p.2)
}

%fused_computation.4 (p.3: f32[512,512], p.4: f32[2048,512]) -> f32[2048,512] {
  %p.3 = f32[512,512]{1,0} parameter(0)
  %p.4 = f32[2048,512]{1,0} parameter(1)
  %all-gather.8 = f32[2048,512]{1,0:T(8,128)S(1)} all-gather(%p.3), channel_id=2, replica_groups={{0,1,2,3}}, \
dimensions={0}, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %custom-call.2 = f32[2048,512]{1,0} custom-call(%all-gather.8, %p.4), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.5: f32[3,3,32,32]) -> f32[3,3,32,8] {
  %p.5 = f32[3,3,32,32]{2,3,1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[3,3,32,32]{2,3,1,0:T(8,128)} all-reduce(%p.5), channel_id=4, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add, metadata={op_name="jit(f)/transpose(jvp(net))/mul"}
  ROOT %slice.1 = f32[3,3,32,8]{2,3,1,0} dynamic-slice(%all-reduce.9), dynamic_slice_sizes={3,3,32,8}
}

%body (w.1: (s32[], f32[1024,512], f32[512,512])) -> (s32[], f32[1024,512], f32[512,512]) {
  %w.1 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, /*index=2*/f32[512,512]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%w.1), index=0
  %one = s32[]{:T(128)} constant(1)
  %x.1 = f32[1024,512]{1,0:T(8,128)S(1)} get-tuple-element(%w.1), index=1
  %g.1 = f32[512,512]{1,0} get-tuple-element(%w.1), index=2
  %convert.6 = bf16[1024,512]{1,0:T(8,128)(2,1)S(1)} convert(%x.1), \
backend_config={"window_config":{"estimated_cycles":"10000"}}
  %collective-permute-start = (bf16[1024,512]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,512]{1,0:T(8,128)(2,1)S(1)}, \
u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%convert.6), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %cover.1 = f32[1024,512]{1,0} copy(%x.1), backend_config={"window_config":{"estimated_cycles":"3000"}}
  %i.2 = s32[]{:T(128)} add(%i.1, %one)
  %collective-permute-done = bf16[1024,512]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%collective-permute-start)
  %fusion.10 = f32[1024,512]{1,0} fusion(%g.1, %collective-permute-done), kind=kOutput, \
calls=%async_collective_fusion.10, backend_config={"window_config":{"estimated_cycles":"20000"}}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[1024,512]{1,0}, f32[512,512]{1,0}) tuple(%i.2, %fusion.10, %g.1)
}

%condition (w.2: (s32[], f32[1024,512], f32[512,512])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %w.2 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, f32[512,512]{1,0}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%w.2), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%i.3, %bound), direction=LT
}

ENTRY %main (x: f32[1024,512], w: f32[512,512], k: f32[3,3,32,32]) -> f32[1] {
  %x = f32[1024,512]{1,0:T(8,128)} parameter(0), metadata={op_name="x"}
  %w = f32[512,512]{1,0:T(8,128)} parameter(1), metadata={op_name="w"}
  %k = f32[3,3,32,32]{2,3,1,0:T(8,128)} parameter(2), metadata={op_name="k"}
  %zero = s32[]{:T(128)} constant(0)
  %copy.11 = s32[]{:T(128)} copy(%zero)
  %async-collective-start = (f32[512,512]{1,0:T(8,128)S(1)}, f32[2048,512]{1,0:T(8,128)S(1)}, s32[2]{0:S(4)}, u32[]{:S(2)}) \
fusion(%w), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%fused_computation.2
  %fusion.1 = f32[1024,512]{1,0:T(8,128)S(1)} fusion(%x, %w), kind=kOutput, calls=%add, \
backend_config={"flag_configs":[],"window_config":{"estimated_cycles":"4000","iteration_bounds":["1"]}}
  %psum.7 = f32[1024,512]{1,0:T(8,128)S(1)} all-reduce(%fusion.1), channel_id=1, replica_groups=[1,4]<=[4], \
use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(f)/psum" stack_frame_id=18}
  %tuple.0 = (s32[]{:T(128)}, f32[1024,512]{1,0}, f32[512,512]{1,0}) tuple(%copy.11, %psum.7, %w)
  %while.10 = (s32[]{:T(128)}, f32[1024,512]{1,0}, f32[512,512]{1,0}) while(%tuple.0), condition=%condition, body=%body
  %async-collective-done = f32[2048,512]{1,0:T(8,128)S(1)} fusion(%w, %w), kind=kCustom, calls=%fused_computation.4
  %fusion.2 = f32[3,3,32,8]{2,3,1,0} fusion(%k), kind=kCustom, calls=%all-reduce-scatter
  ROOT %reduce.1 = f32[1]{0:T(128)} reduce(%async-collective-done, %zero), dimensions={0,1}, to_apply=%add, \
backend_config={"window_config":{"estimated_cycles":"500"}}
}
"""
