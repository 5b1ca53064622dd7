#include "plan/weights_identity.h"

#include <filesystem>
#include <sstream>
#include <system_error>

#include "plan/cpu_executor.h"

namespace weft {
namespace {

void write(std::ostream& to, const TensorRows& rows) {
  to << ' ' << rows.tensor << ' ' << rows.first_row << '+' << rows.rows << ',' << rows.first_col
     << (rows.transposed ? 't' : 'r');
  for (const int64_t extent : rows.shape) to << ' ' << extent;
}

void write(std::ostream& to, const Matrix& m, const LoadOptions& options) {
  const kernels::WeightFormat format = format_of(m, options.form);
  to << "matrix";
  for (const TensorRows& source : m.sources) write(to, source);
  to << " k " << m.k << ' ' << m.first_k << ' ' << m.tensor_k << " shards " << m.shards() << " gated " << m.gated
     << " format " << static_cast<int>(format.form) << ' ' << format.groups.size << ' '
     << static_cast<int>(format.groups.scale) << ' ' << static_cast<int>(format.groups.offset) << ' '
     << static_cast<int>(format.groups.levels) << ' ' << static_cast<int>(format.operand) << '\n';
}

}  // namespace

PackedIdentity identity_of(const Plan& plan, const std::vector<bool>& own, const Checkpoint& checkpoint,
                           const kernels::CpuTable& table, const LoadOptions& options) {
  std::error_code ignored;
  std::ostringstream place;
  place << std::filesystem::absolute(checkpoint.path(), ignored).lexically_normal().string() << "\nkernels "
        << table.isa << "\nform " << static_cast<int>(options.form) << " quantize "
        << static_cast<int>(options.quantize) << " pack " << options.pack << '\n';
  for (size_t i = 0; i < plan.matrices.size(); ++i)
    if (own[i]) write(place, plan.matrices[i], options);
  for (size_t i = 0; i < plan.tables.size(); ++i) {
    if (!own[plan.matrices.size() + i]) continue;
    place << "table";
    write(place, plan.tables[i]);
    place << ' ' << plan.table_cols[i] << '\n';
  }
  return {place.str(), checkpoint.stamps().text() + checkpoint.config().dump()};
}

}  // namespace weft
