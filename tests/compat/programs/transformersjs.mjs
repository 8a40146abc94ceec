// What Node and the browser share: transformers.js's own loop over a bundle, one dtype a precision.

/** Answers of the job (see answers.py): {precision: [[new token ids], ...] or {error}}. */
export async function answers({ AutoModelForCausalLM, Tensor }, job, model, options) {
  const found = {};
  for (const precision of Object.keys(job.files)) {
    try {
      const decoder = await AutoModelForCausalLM.from_pretrained(model, { dtype: precision, ...options });
      found[precision] = [];
      for (const prompt of job.prompts) {
        const shape = [1, prompt.length];
        const output = await decoder.generate({
          input_ids: new Tensor('int64', prompt.map(BigInt), shape),
          attention_mask: new Tensor('int64', prompt.map(() => 1n), shape),
          max_new_tokens: job.new_tokens,
          do_sample: false,
        });
        found[precision].push(output.tolist()[0].map(Number).slice(prompt.length));
      }
      await decoder.dispose();
    } catch (error) {
      found[precision] = { error: String(error) };
    }
  }
  return found;
}
