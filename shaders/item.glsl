// The index of this workgroup's item among those of the dispatch, by the convention of src/vulkan/dispatch.h: a piece
// [first, first + count) of the work. False: there is none.
bool find_item(uint first, uint count, out uint item) {
  const uint w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  item = first + w;
  return w < count;
}
