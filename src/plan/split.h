// Cuts a recorded plan into the shares of ranks.
//
// Blocks and models record a plan as if one rank computed all of it. A rank's share follows from what it must have at
// the end, backwards: a matrix whose k ranks share (Shard::rows) needs only the rank's columns of its input, so the ops
// in front of it compute only these - the rank's heads, the rank's part of an MLP's width - and hold only what they
// read of their weights and of the cache. What comes out of such a matrix is a partial sum, in a storage that no op but
// the all_reduce behind it can read; its tree of shard sums ends there with the same additions as on one rank. The
// vocabulary of the output, and of an embedding that is tied to it, is shared by rows.
//
// Experts are shared by id, in whole groups of those that are summed (kernels::expert_groups), by sets of ranks
// (RankLayout::experts), and their sums joined in the same way. The ranks of a set share the outputs of each expert's
// matrices: of the first the rank's part of the width, of the second its part of the stream. In between the set's parts
// are gathered, and in the end the parts of all ranks, so that every sum over k is made in one piece.
//
// A matrix whose shards, or whose groups of scales, do not fit the number of ranks is cut by its outputs instead, with
// an all_gather before and behind it: the same bits and one more message.
#pragma once

#include "base/result.h"
#include "core/ranks.h"
#include "plan/plan.h"

namespace weft {

// The share of rank `rank` of the layout (stage after stage), for a plan whose formats are chosen and that has been
// through no pass. Errors: invalid_argument with the numbers where layers, heads, widths or experts cannot
// be shared so.
Result<Plan> split_plan(const Plan& whole, const RankLayout& layout, int rank);

// Whether ranks have parts of one expert.
bool cuts_experts(const Plan& whole, const RankLayout& layout);

// Ends the process if anything but the collective that adds them up reads a rank's partial sums. split_plan() calls it.
void check_partial_sums(const Plan& plan);

}  // namespace weft
